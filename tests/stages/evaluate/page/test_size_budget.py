from stages.evaluate.page.gallery import CaptionQuery, ClassAccuracy, ClassExample, Confusion, FoundImage, Gallery
from stages.evaluate.page.size_budget import image_chars, images_in, thin_out

IMAGE = "data:image/jpeg;base64," + "A" * 77  # 100 characters


def a_gallery(num: int = 10) -> Gallery:
    image = FoundImage(IMAGE, "caption", "path", 0.5, is_true=True)
    return Gallery(
        "test",
        class_examples=tuple(ClassExample(IMAGE, str(number), "dog", "dog") for number in range(num)),
        caption_misses=tuple(CaptionQuery(str(number), image, 9, ()) for number in range(num)),
        confusions=tuple(Confusion(ClassAccuracy(str(number), 0.0, 1), (), ()) for number in range(num)),
    )


def test_image_chars__counts_images_wherever_they_lie() -> None:
    assert image_chars({"test": [a_gallery()], "none": None}) == 2000
    assert list(images_in(("text", 3, (IMAGE,)))) == [IMAGE]


def test_thin_out__leaves_what_fits_as_it_is() -> None:
    assert thin_out([a_gallery()], max_chars=2000) == (a_gallery(),)


def test_thin_out__keeps_a_spread_of_the_sample_and_the_worst_of_the_worst() -> None:
    [thinned] = thin_out([a_gallery()], max_chars=1000)
    assert [example.path for example in thinned.class_examples] == ["1", "3", "5", "7", "9"]
    assert [query.caption for query in thinned.caption_misses] == ["0", "1", "2", "3", "4"]
    assert [confusion.accuracy.class_name for confusion in thinned.confusions] == ["0", "1", "2", "3", "4"]
    assert image_chars(thinned) == 1000


def test_thin_out__takes_the_same_share_of_every_set_and_leaves_one_of_each() -> None:
    thinned = thin_out([a_gallery(10), a_gallery(20)], max_chars=1500)
    assert [len(gallery.class_examples) for gallery in thinned] == [2, 5]
    assert [len(gallery.class_examples) for gallery in thin_out([a_gallery()], max_chars=-5)] == [1]
    assert thin_out([Gallery("empty")], max_chars=0) == (Gallery("empty"),)
